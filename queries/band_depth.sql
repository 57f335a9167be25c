-- Shares of the signal-processing words in each tenth of the depth, from input to output.
-- $models = *: a glob of models
-- $size = *: kernel size, or * for all
SELECT depth_from, band, count(*) AS filters, round(100.0 * count(*) / sum(count(*)) OVER (PARTITION BY depth_from), 2) AS percent
FROM (SELECT least(floor(10 * l.depth_norm), 9) / 10 AS depth_from, coalesce(band, '(' || coalesce(reason, 'zero') || ')') AS band
      FROM descriptors JOIN filters AS f USING (filter_id) JOIN layers AS l USING (model, layer)
      WHERE f.model GLOB $models AND f.size GLOB $size)
GROUP BY depth_from, band
ORDER BY depth_from, filters DESC, band
