-- Directions of derivatives, in degrees (x right, y up) to the nearest 45: first derivatives by direction, second by axis.
-- $models = *: a glob of models
SELECT derivative_order, CASE WHEN direction IS NOT NULL THEN round(direction / 45) * 45 % if(derivative_order = 1, 360, 180) END AS towards,
       count(*) AS filters, round(100.0 * count(*) / sum(count(*)) OVER (PARTITION BY derivative_order), 2) AS percent
FROM descriptors JOIN filters USING (filter_id)
WHERE band = 'differential' AND model GLOB $models
GROUP BY derivative_order, towards
ORDER BY derivative_order, towards
