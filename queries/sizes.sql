-- Kernel sizes, with the number of kernels, layers and models of each.
SELECT size, count(*) AS filters, count(DISTINCT (model, layer)) AS layers, count(DISTINCT model) AS models,
       round(100.0 * count(*) / sum(count(*)) OVER (), 2) AS percent
FROM filters
GROUP BY size
ORDER BY filters DESC, size
