-- Shares of the signal-processing words (lowpass, differential …) by task, model, dataset, size or stride.
-- The rules are in docs/words.md. Models of unknown task or stride count as (unknown).
-- $by = task: task, model, dataset, size or stride
-- $models = *: a glob of models
SELECT name, band, count(*) AS filters, round(100.0 * count(*) / sum(count(*)) OVER (PARTITION BY name), 2) AS percent,
       round(avg(band_confidence::DOUBLE), 3) AS mean_confidence
FROM (SELECT coalesce(CASE $by WHEN 'task' THEN m.task WHEN 'model' THEN m.model WHEN 'dataset' THEN m.dataset WHEN 'size' THEN f.size
                               WHEN 'stride' THEN l.stride::VARCHAR ELSE error('by is task, model, dataset, size or stride') END,
                      '(unknown)') AS name,
             coalesce(band, '(' || coalesce(reason, 'zero') || ')') AS band, band_confidence
      FROM descriptors JOIN filters AS f USING (filter_id) JOIN models AS m USING (model) JOIN layers AS l USING (model, layer)
      WHERE f.model GLOB $models)
GROUP BY name, band
ORDER BY name, filters DESC, band
