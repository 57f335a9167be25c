-- Square kernels (solid blocks, a class at 5x5 only) by layer, with the depth and stride of the layer.
-- $classifier: the classifier's name
SELECT model, layer, round(depth_norm, 2) AS depth_norm, stride, count(*) AS filters,
       count(*) FILTER (class = 'on_square') AS on_square,
       count(*) FILTER (class = 'off_square') AS off_square,
       round(100.0 * count(*) FILTER (class IN ('on_square', 'off_square')) / count(*), 2) AS percent_square
FROM classes JOIN filters USING (filter_id) JOIN layers USING (model, layer)
WHERE classifier = $classifier
GROUP BY model, layer, depth_norm, stride
HAVING percent_square > 0
ORDER BY percent_square DESC, model, layer
