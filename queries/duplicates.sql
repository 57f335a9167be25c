-- Kernels that occur more than once, equal in every tap: shared weights, copied stages, one backbone in several models.
-- $size = 7x7: rows x columns of the kernels
-- $least = 2: minimum number of copies
-- $count = 100: maximum number of rows
SELECT count(*) AS copies, count(DISTINCT model) AS models, min(filter_id) AS filter_id, min(model) AS first_model,
       round(any_value(norm::DOUBLE), 4) AS norm
FROM filters
WHERE size = $size AND NOT dead
GROUP BY kernel
HAVING count(*) >= $least
ORDER BY copies DESC, filter_id
LIMIT $count
