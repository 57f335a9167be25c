-- The scale-space models with the best fit by BIC: share of the kernels for each, and how well it fits.
-- A scale at its bound means that the model is a limit of its family. Needs fits: filterdb fit --size 7x7
-- $models = *: a glob of models
-- $size = *: kernel size, or * for all
SELECT family, count(*) AS filters, round(100.0 * count(*) / sum(count(*)) OVER (), 2) AS percent,
       round(avg(rho::DOUBLE), 4) AS mean_rho, round(median(rho::DOUBLE), 4) AS median_rho,
       round(100.0 * count(*) FILTER (rho >= 0.9) / count(*), 2) AS percent_above_90,
       round(100.0 * count(*) FILTER (at_bound) / count(*), 2) AS percent_at_bound
FROM fits JOIN filters USING (filter_id)
WHERE best AND model GLOB $models AND fits.size GLOB $size
GROUP BY family
ORDER BY filters DESC, family
