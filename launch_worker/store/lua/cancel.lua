-- Pending -> Killed. A Running run is marked, and its owner is told at once.
-- ARGV: id, grace_us ('' = the job's own), reason, preempt (1: the run shall end only to run again, and must be
--   Running), actor (who asks for it; '' for a part of the system)
-- Returns the answer 'killed' | 'requested' | 'final' | 'pending', and the run's state.
local id, grace_us, reason, preempt, actor = unpack(ARGV)
local run = get(id, 'state', 'attempt', 'owner', 'cancel_at', 'token', 'preempting')
local state = run[1]
if not state then return {'unknown', ''} end
local now = now_us()
if state == 'Pending' then
  if preempt == '1' then return {'pending', state} end
  WAITING.kill_pending(id, now, reason, {actor = actor})
  WAITING.settle(now, 100)
  return {'killed', 'Killed'}
end
if state ~= 'Running' then return {'final', state} end
-- A run that was asked to end for good must not run again.
if preempt == '1' and run[4] and not run[6] then return {'requested', state} end
ask_to_end(id, now, grace_us, reason, preempt == '1', actor)
return {'requested', state}
