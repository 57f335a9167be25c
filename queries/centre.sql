-- Share of a kernel's energy in its centre tap: near 1 for an identity, 1/taps for a flat kernel. Odd sizes only.
-- $size = 7x7: rows x columns of the kernels
SELECT model, count(*) AS filters,
       round(avg(kernel[(kernel_h * kernel_w + 1) // 2] ** 2 / norm ** 2), 4) AS mean_centre_energy,
       round(100.0 * count(*) FILTER (kernel[(kernel_h * kernel_w + 1) // 2] ** 2 > 0.9 * norm ** 2) / count(*), 2) AS percent_identity
FROM filters
WHERE size = $size AND norm > 0 AND kernel_h % 2 = 1 AND kernel_w % 2 = 1
GROUP BY model
ORDER BY mean_centre_energy DESC, model
