-- Begins a phase of a Running attempt's start or end.  ARGV: id, token, name, reason (for people, while it lasts)
-- Refuses a stale attempt.  Returns 1 or 0.
local id, token, name, reason = unpack(ARGV)
local run = get(id, 'state', 'token', 'phases', 'cancel_at')
if run[1] ~= 'Running' or run[2] ~= token then return 0 end
local _, last = phases_of(run[3])
-- A repeated call begins nothing anew.
if not (last and last.name == name) then enter_phase(id, name, now_us()) end
if not run[4] then
  put(id, 'reason', reason)
elseif name == 'end' then
  put(id, 'reason', 'stopping: ' .. reason)
end
return 1
