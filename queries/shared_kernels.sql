-- Pairs of models that share kernels, equal in every tap: one training run under two names, a frozen backbone, an unchanged fine-tune.
SELECT a.model AS model, b.model AS other, count(*) AS filters
FROM (SELECT DISTINCT model, kernel FROM filters WHERE NOT dead) AS a
JOIN (SELECT DISTINCT model, kernel FROM filters WHERE NOT dead) AS b ON a.kernel = b.kernel AND a.model < b.model
GROUP BY ALL
ORDER BY filters DESC, model, other
