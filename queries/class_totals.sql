-- Total activation (sum of the weights) of each class: quartiles, and the share of kernels with a positive total.
-- q05 and q95 are the 5th and 95th percentiles.
-- $classifier: the classifier's name
-- $models = *: only models of this name or glob
SELECT coalesce(class, '(dead)') AS class, count(*) AS filters, round(quantile_cont(total::DOUBLE, 0.25), 4) AS q25,
       round(median(total::DOUBLE), 4) AS median, round(quantile_cont(total::DOUBLE, 0.75), 4) AS q75,
       round(100.0 * count(*) FILTER (total > 0) / count(*), 2) AS percent_positive,
       round(quantile_cont(total::DOUBLE, 0.05), 4) AS q05, round(quantile_cont(total::DOUBLE, 0.95), 4) AS q95
FROM classes JOIN filters USING (filter_id)
WHERE classifier = $classifier AND model GLOB $models
GROUP BY ALL
ORDER BY filters DESC, class
