-- Total activation (sum of the weights) by layer of a model: quartiles, and the share of kernels with a positive total.
-- q05 and q95 are the 5th and 95th percentiles.
-- $model: the model's name
SELECT depth, layer, size, count(*) AS filters, round(quantile_cont(total::DOUBLE, 0.25), 4) AS q25,
       round(median(total::DOUBLE), 4) AS median, round(quantile_cont(total::DOUBLE, 0.75), 4) AS q75,
       round(100.0 * count(*) FILTER (total > 0) / count(*), 2) AS percent_positive,
       round(quantile_cont(total::DOUBLE, 0.05), 4) AS q05, round(quantile_cont(total::DOUBLE, 0.95), 4) AS q95
FROM filters
WHERE model = $model
GROUP BY depth, layer, size
ORDER BY depth
