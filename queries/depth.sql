-- Norm, DC ratio and dead kernels of one size, in ten steps of relative depth from input to output.
-- The DC ratio is sum(h) / sum(|h|): 1 for a smoothing kernel, 0 for one that ignores constant images.
-- $size = 7x7: rows x columns of the kernels
SELECT least(floor(10 * l.depth_norm), 9) / 10 AS depth_from, count(*) AS filters, count(DISTINCT f.model) AS models,
       round(avg(f.norm), 4) AS mean_norm,
       round(avg(abs(f.total) / nullif(list_sum(list_transform(f.kernel, lambda x: abs(x))), 0)), 4) AS mean_dc_ratio,
       round(100.0 * count(*) FILTER (f.dead) / count(*), 2) AS percent_dead
FROM filters AS f JOIN layers AS l USING (model, layer)
WHERE f.size = $size
GROUP BY depth_from
ORDER BY depth_from
