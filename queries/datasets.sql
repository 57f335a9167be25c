-- Kernels by the data set that the weights were trained on.
SELECT coalesce(dataset, 'unknown') AS dataset, size, count(DISTINCT model) AS models, count(*) AS filters,
       round(100.0 * count(*) FILTER (dead) / count(*), 2) AS percent_dead
FROM filters
GROUP BY ALL
ORDER BY dataset, filters DESC, size
