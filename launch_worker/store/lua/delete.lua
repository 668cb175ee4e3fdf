-- Pending -> Killed, and any final state -> (nothing): the run, its history, logs, metrics and files are gone.
-- ARGV: id, reason of the end if the run is Pending, who deletes it, keep_us (time for which a look-up says that it was
--   deleted), actor
-- Refuses a Running run. Its sweep, and the runs that wait for it, are told of its end first. A repeated call changes
-- nothing.
-- Returns 'deleted' | 'running' | 'unknown' | 'again' (not all runs that wait for it were told: call again).
local id, reason, who, keep_us, actor = unpack(ARGV)
local mark = run_key(id) .. ':deleted'
local state = get(id, 'state')[1]
if not state then return redis.call('EXISTS', mark) == 1 and 'deleted' or 'unknown' end
local now = now_us()
if state == 'Pending' then
  WAITING.kill_pending(id, now, reason, {actor = actor})
elseif not FINAL[state] then
  return 'running'
end
-- Runs that wait for it are told how it ended, and not that it does not exist.
WAITING.settle(now, 200)
if redis.call('SISMEMBER', 'launch:settle', id) == 1 then return 'again' end
-- The mark comes first: a worker that was silent must not bring the record back.
local run = get(id, 'queue', 'project', 'state', 'sweep', 'array', 'attempt', 'once')
redis.call('SET', mark, cjson.encode({at = int(now), by = who, project = run[2] or ''}), 'PX',
  int(math.max(1, math.floor(tonumber(keep_us) / 1000))))
unlist_ended(id)
redis.call('ZREM', 'launch:runs', id)
for at, kind in ipairs({'queue', 'project', 'state', 'sweep'}) do
  if run[at] and run[at] ~= '' then redis.call('ZREM', 'launch:runs:' .. kind .. ':' .. run[at], id) end
end
forget(id)
redis.call('PUBLISH', 'launch:news:' .. id, 'deleted')
add_change({'kind', 'gone', 'id', id, 'at', int(now), 'actor', actor, 'project', run[2] or '', 'queue', run[1] or ''})
return 'deleted'
