-- Adds the next chunk of an attempt's output.
-- ARGV: id, attempt, chunk, bytes of output before the chunk, line breaks before it ('' when that is not known),
--   first entry to keep ('' for all, '*' for the new one), bytes of output that are in no entry, line breaks in them ('' as
--   before), URL where that output is stored ('' for nowhere)
-- Refuses a run that does not exist (any more).  Returns the id of the (first) entry of the chunk, or '' when refused.
local id, attempt, chunk, offset, line, keep_from, missing, missing_lines, stored_at = unpack(ARGV)
if redis.call('EXISTS', run_key(id)) == 0 then return '' end
local log = run_key(id) .. ':log:' .. attempt
local function before(entry_id)
  return redis.call('XREVRANGE', log, entry_id, '-', 'COUNT', 1)[1]
end
local function end_of(entry)
  return tonumber(entry[2][4]) + #entry[2][2]
end
local last, first = before('+'), nil
if last then
  -- A call without a reply is repeated, perhaps with more output than before, and perhaps more than once.
  local known = end_of(last) - tonumber(offset)
  local part = last
  while part and end_of(part) > tonumber(offset) do
    first = part[1]
    part = before('(' .. first)
  end
  if known >= #chunk then return first end
  if known > 0 then
    if line ~= '' then
      local _, breaks = string.gsub(string.sub(chunk, 1, known), '\n', '')
      line = int(tonumber(line) + breaks)
    end
    chunk, offset = string.sub(chunk, known + 1), int(tonumber(offset) + known)
  end
end
local entry
if line == '' then
  entry = redis.call('XADD', log, '*', 'd', chunk, 'o', offset)
else
  entry = redis.call('XADD', log, '*', 'd', chunk, 'o', offset, 'l', line)
end
first = first or entry
if keep_from ~= '' then redis.call('XTRIM', log, 'MINID', keep_from == '*' and first or keep_from) end
if missing ~= '0' and redis.call('HGET', run_key(id), 'attempt') == attempt then
  put(id, 'log_missing', missing, 'log_missing_lines', missing_lines, 'log_url', stored_at)
end
redis.call('PUBLISH', 'launch:news:' .. id, 'output')
return first
