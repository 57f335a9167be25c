-- Layers with dead kernels (constant or zero: no spatial pattern), the most affected first.
SELECT model, layer, size, count(*) FILTER (dead) AS dead, count(*) AS filters,
       round(100.0 * count(*) FILTER (dead) / count(*), 2) AS percent
FROM filters
GROUP BY model, layer, size
HAVING count(*) FILTER (dead) > 0
ORDER BY percent DESC, model, layer
