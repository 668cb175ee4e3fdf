-- The next chunk of an attempt's output.
-- ARGV: id, attempt, chunk, bytes of output before it, first entry to keep ('' for all, '*' for this one),
--   bytes of output that are in no entry
-- Refused for a run that does not exist (any more).  Returns the entry's id, or '' when refused.
local id, attempt, chunk, offset, keep_from, missing = unpack(ARGV)
if redis.call('EXISTS', run_key(id)) == 0 then return '' end
local log = run_key(id) .. ':log:' .. attempt
local last = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1]
if last then
  -- A call whose reply was lost is repeated, perhaps with more output than it had.
  local known = tonumber(last[2][4]) + #last[2][2] - tonumber(offset)
  if known >= #chunk then return last[1] end
  if known > 0 then chunk, offset = string.sub(chunk, known + 1), int(tonumber(offset) + known) end
end
local entry = redis.call('XADD', log, '*', 'd', chunk, 'o', offset)
if keep_from ~= '' then redis.call('XTRIM', log, 'MINID', keep_from == '*' and entry or keep_from) end
if missing ~= '0' and redis.call('HGET', run_key(id), 'attempt') == attempt then
  put(id, 'log_missing', missing)
end
redis.call('PUBLISH', 'launch:news:' .. id, 'output')
return entry
