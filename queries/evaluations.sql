-- All evaluations of networks: accuracy with model, bank and mode (Table 3 of the eight filters).
-- Accuracy and agreement are in percent. The standard errors (_se) are binomial; top1_difference is top1 less that of the original on the
-- same images, with the standard error of pairs. The loss, and the KL divergence from the original network, are in nats.
-- $models = *: only models of this name or glob
-- $data = *: only data of this name or glob
SELECT model, bank, mode, data, split, part, images,
       round(100 * any_value(value) FILTER (metric = 'top1'), 2) AS top1,
       round(100 * coalesce(any_value(value) FILTER (metric = 'top1_se'),
             sqrt(any_value(value * (1 - value)) FILTER (metric = 'top1') / images)), 2) AS top1_se,
       round(100 * any_value(value) FILTER (metric = 'top5'), 2) AS top5,
       round(100 * any_value(value) FILTER (metric = 'top1_difference'), 2) AS top1_difference,
       round(100 * any_value(value) FILTER (metric = 'top1_difference_se'), 2) AS top1_difference_se,
       round(any_value(value) FILTER (metric = 'loss'), 4) AS loss,
       round(100 * any_value(value) FILTER (metric = 'agreement'), 2) AS agreement,
       round(any_value(value) FILTER (metric = 'kl'), 4) AS kl, run_id
FROM (SELECT runs.*, metric, value FROM runs LEFT JOIN metrics USING (run_id))
WHERE kind = 'evaluate' AND coalesce(model, '') GLOB $models AND coalesce(data, '') GLOB $data
GROUP BY model, bank, mode, data, split, part, images, run_id, started_at
ORDER BY data, model, started_at, run_id
