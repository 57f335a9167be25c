-- The depthwise layers of a model, from input to output.
-- $model: the model's name
SELECT l.depth, l.layer, l.stage, l.size, l.stride, l.dilation, l.out_channels AS filters, l.kind,
       count(*) FILTER (f.dead) AS dead, round(avg(f.norm), 4) AS mean_norm, round(avg(f.total), 4) AS mean_total
FROM layers AS l JOIN filters AS f USING (model, layer)
WHERE l.model = $model
GROUP BY ALL
ORDER BY l.depth
