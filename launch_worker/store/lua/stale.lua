-- Lists Running runs whose leases ran out, the oldest deadline first.  ARGV: limit, field…
-- Returns {id, {value of each field}, …}; the first field is the state. Leases of missing or damaged records are
-- deleted: else they would fill every page.
local limit = ARGV[1]
limit = int(at_most(limit, MOST_AT_ONCE))
local FIRST_FIELD = 2
local found = {}
local range = {'launch:leases', '-inf', int(now_us()), 'LIMIT', 0, limit}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', unpack(range))) do
  local values = redis.pcall('HMGET', run_key(id), unpack(ARGV, FIRST_FIELD))
  if values.err or not values[1] then
    redis.call('ZREM', 'launch:leases', id)
  else
    found[#found + 1] = id
    found[#found + 1] = values
  end
end
return found
