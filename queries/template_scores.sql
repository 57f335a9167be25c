-- Correlation of kernels with the ideal form of their class (1: equal up to scale and offset), by class.
-- $classifier: the classifier's name
-- $models = *: only models of this name or glob
SELECT template AS class, count(*) AS filters, round(avg(template_score), 3) AS mean, round(median(template_score::DOUBLE), 3) AS median,
       round(100.0 * count(*) FILTER (template_score >= 0.9) / count(*), 2) AS percent_above_90
FROM classes JOIN filters USING (filter_id)
WHERE classifier = $classifier AND model GLOB $models AND template IS NOT NULL
GROUP BY ALL
ORDER BY filters DESC, class
