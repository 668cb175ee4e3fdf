-- Copies runs, with their history, into every index that knows them: so that a Redis can be filled with a million.
-- Only for the benchmark.  ARGV: number of the first copy, how many, number of templates, template id…
-- KEYS: the sorted sets and lists that may know a template.  A copy's place is that of its template, a little later.
local first, count, templates = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local places, items = {}, {}
for at = 1, templates do
  local id = ARGV[3 + at]
  places[id], items[id] = {}, {}
  for _, key in ipairs(KEYS) do
    local kind = redis.call('TYPE', key).ok
    if kind == 'zset' then
      local score = redis.call('ZSCORE', key, id)
      if score then table.insert(places[id], {key, tonumber(score)}) end
    elseif kind == 'list' then
      for _, item in ipairs(redis.call('LRANGE', key, 0, -1)) do
        if string.find(item, id, 1, true) then items[id] = {key, item} end
      end
    elseif kind == 'set' and redis.call('SISMEMBER', key, id) == 1 then
      table.insert(places[id], {key})
    end
  end
end
for number = first, first + count - 1 do
  local id = ARGV[4 + number % templates]
  local copy = string.format('%015x', number)
  redis.call('COPY', 'launch:run:' .. id, 'launch:run:' .. copy)
  redis.call('COPY', 'launch:run:' .. id .. ':history', 'launch:run:' .. copy .. ':history')
  for _, name in ipairs({'created_at', 'started_at', 'ended_at'}) do
    local at = redis.call('HGET', 'launch:run:' .. copy, name)
    if at then redis.call('HSET', 'launch:run:' .. copy, name, string.format('%.0f', tonumber(at) + number)) end
  end
  for _, place in ipairs(places[id]) do
    if place[2] then redis.call('ZADD', place[1], string.format('%.0f', place[2] + number), copy)
    else redis.call('SADD', place[1], copy) end
  end
  if items[id][1] then redis.call('LPUSH', items[id][1], (string.gsub(items[id][2], id, copy))) end
end
return count
