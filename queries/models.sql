-- Models, with the kernels, layers, dead kernels, parameters and accuracy of each.
SELECT m.model, m.dataset, m.layers, m.filters, count(*) FILTER (f.dead) AS dead, m.params, m.top1,
       round(100.0 * sum(f.kernel_h * f.kernel_w) / any_value(m.params), 3) AS percent_of_params
FROM models AS m JOIN filters AS f USING (model)
GROUP BY ALL
ORDER BY m.model
