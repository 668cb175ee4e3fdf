-- Notes the process of a Running attempt, and the end of its start.  ARGV: id, token, pid.  Refuses a stale
-- attempt.  Returns 1 or 0.
local id, token, pid = unpack(ARGV)
local run = get(id, 'state', 'token', 'phases', 'cancel_at')
if run[1] ~= 'Running' or run[2] ~= token then return 0 end
put(id, 'pid', pid)
if run[3] then
  enter_phase(id, '', now_us())
  if not run[4] then put(id, 'reason', '') end
end
return 1
