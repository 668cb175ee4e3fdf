-- Notes the outputs of an attempt, which are in the store by now. The attempt may have ended, and the run may have gone on.
-- ARGV: id, attempt, token, files, bytes, left_out (numbers of files that are kept, of their bytes, and of other files)
-- Refuses an attempt of another token, and an earlier attempt that has outputs already. A repeated call changes nothing
-- but the time.  Returns 'kept' | 'superseded' | 'deleted' | 'unknown' (Redis has no record).
local id, attempt, token, files, bytes, left_out = unpack(ARGV)
local run = get(id, 'state', 'attempt', 'token')
if not run[1] then return redis.call('EXISTS', run_key(id) .. ':deleted') == 1 and 'deleted' or 'unknown' end
local number, newest = tonumber(attempt), tonumber(run[2]) or 0
if number > newest or number == newest and run[3] ~= token then return 'superseded' end
local known = OUTPUTS.read(id)
local mine = known[attempt]
if number < newest and type(mine) == 'table' and not mine.sending then return 'superseded' end
known[attempt] = {files = tonumber(files), bytes = tonumber(bytes), at = int(now_us()), left_out = tonumber(left_out)}
-- A run of which no file is wanted left nothing.
if files == '0' and left_out == '0' then known[attempt] = nil end
OUTPUTS.write(id, known)
-- The archive may have taken the record for whole already: an entry without a place in the history has it read again.
add_change({'kind', 'run', 'id', id})
return 'kept'
