-- Share of clustered kernels by model, with parameters and accuracy (Table 1 of ICLR 2024).
-- percent_clustered counts kernels within the classifier's threshold of one of its codes. mean_template_score is their mean
-- correlation with the ideal form of their class.
-- $classifier: the classifier's name
-- $models = *: only models of this name or glob
SELECT model, models.dataset, count(*) AS filters, round(100.0 * count(*) FILTER (clustered) / count(*), 2) AS percent_clustered,
       round(avg(template_score) FILTER (clustered), 3) AS mean_template_score, params, top1
FROM classes JOIN filters USING (filter_id) JOIN models USING (model)
WHERE classifier = $classifier AND model GLOB $models
GROUP BY model, models.dataset, params, top1
ORDER BY percent_clustered DESC, model
