-- The next chunk of an attempt's output.  ARGV: id, attempt, chunk, bytes of output before it, first entry to keep ('')
-- Refused for a run that does not exist (any more).  Returns the entry's id, or '' when refused.
local id, attempt, chunk, offset, keep_from = unpack(ARGV)
if redis.call('EXISTS', run_key(id)) == 0 then return '' end
local log = run_key(id) .. ':log:' .. attempt
local last = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1]
-- A call whose reply was lost is repeated.
if last and last[2][4] == offset then return last[1] end
local entry = redis.call('XADD', log, '*', 'd', chunk, 'o', offset)
redis.call('PUBLISH', 'launch:news:' .. id, 'output')
if keep_from ~= '' then redis.call('XTRIM', log, 'MINID', keep_from) end
return entry
