-- The kernels with the largest norm of their size.
-- $size = 7x7: rows x columns of the kernels
-- $count = 10: number of kernels
SELECT filter_id, model, layer, channel, round(norm::DOUBLE, 4) AS norm, round(total::DOUBLE, 4) AS total
FROM filters
WHERE size = $size
ORDER BY norm DESC, filter_id
LIMIT $count
