-- (nothing) -> Pending, for many runs.  ARGV: only_known (1: refuse a new queue), reason, user (the ACL user of whoever
-- submits, '' for the usual one), number of groups that the caller announces, and for each of them:
--   group, number of all its runs; then for each batch of runs:
--   queue, its configuration and its pool's as the caller knows them, group ('' = none), number of runs; and for each of these runs:
--   id (or 'ID SLOT FIRST HOLD' for a run with a key that is had for a time: HOLD is that time in microseconds, or 'end'
--   for until the end of FIRST, the run itself or the first one of its array), due ('' = now, else 'at:US' or 'in:US'), expires_us ('' = never), number of fields and values, field, value, …
-- Idempotent by id: a repeated call changes nothing. Refuses a caller that does not know the configurations.
-- Returns for each batch {number of live consumers of the queue, an answer for each run}: created 0|1,
--   or {-1, the configuration, the pool's} or {-2, why not} or {-3, the known queues} or {-4, the run (the first one of
--   the array) that has the key}, or an error.
local only_known, reason, user, groups = unpack(ARGV, 1, 4)
local FIRST_GROUP = 5
local FIRST_BATCH = FIRST_GROUP + 2 * tonumber(groups)
-- Each run of a call gets a time of its own: lists are in the order of the arguments.
local now = now_us() - 1
local answers, at = {}, FIRST_BATCH

local function due_at(due)
  local kind, us = string.match(due, '^(%a+):(%d+)$')
  local when = kind == 'at' and tonumber(us) or kind == 'in' and now + tonumber(us)
  return when and when > now and when or nil
end

-- A damaged record of a group must not keep its runs from their queues.
for of_group = FIRST_GROUP, FIRST_BATCH - 1, 2 do pcall(announce, ARGV[of_group], tonumber(ARGV[of_group + 1])) end
while at <= #ARGV do
  local queue, config, config_of_pool, group, count = unpack(ARGV, at, at + 4)
  at = at + 5
  local refused, first_run = nil, run_key(string.match(ARGV[at] or '', '^%S*'))
  local is_first_new = LOOK.is_nothing_of({first_run, first_run .. ':deleted'}, queue)
  if only_known == '1' and queue ~= 'default' and redis.call('SISMEMBER', 'launch:queues', queue) == 0 then
    refused = {-3, redis.call('SRANDMEMBER', 'launch:queues', 200)}
  else
    local known, known_of_pool = queue_config(queue), pool_config(queue)
    if known ~= config or known_of_pool ~= config_of_pool then refused = {-1, known, known_of_pool} end
  end
  local batch = {redis.call('ZCOUNT', 'launch:consumers:' .. queue, int(now), '+inf')}
  for run = 1, tonumber(count) do
    local id, due, expires_us, fields = unpack(ARGV, at, at + 3)
    at = at + 4 + tonumber(fields)
    now = now + 1
    local answer, slot, first, hold = 0, nil, nil, nil
    if string.find(id, ' ', 1, true) then id, slot, first, hold = string.match(id, '^(%S+) (%S+) (%S+) (%S+)$') end
    local holder = slot and ONCE.holder(slot, first, now)
    if holder then
      answer = {-4, holder}
    elseif is_new(id, run == 1 and is_first_new) then
      answer = refused
      if not refused then
        local fine, created, why = pcall(create, id, now, reason, queue, due ~= '' and due_at(due) or nil,
          tonumber(expires_us), {unpack(ARGV, at - tonumber(fields), at - 1)}, user, group)
        -- One damaged key must not leave the others without their items.
        if not fine then answer = type(created) == 'table' and created or {err = tostring(created)}
        elseif created == -2 then answer = {-2, why}
        else
          answer = created
          if slot then ONCE.take(slot, first, hold, now) end
        end
      end
    end
    batch[run + 1] = answer
  end
  answers[#answers + 1] = batch
end
add_all()
note_announced(now)
return answers
