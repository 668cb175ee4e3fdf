-- Places that come free: parked runs go on.

-- Puts a Pending run that is ready into a list, or parks it. `is_back`: the run was in its queue's line before.
local function line_up(id, now, is_back)
  put_in_line(id, now)
  local group, line, why = no_room(id)
  if group then return park(id, group, line, why) end
  local queue, needs = unpack(get(id, 'queue', 'needs'))
  if needs and needs ~= '' and redis.call('EXISTS', 'launch:parked:needs:' .. needs .. '/' .. queue) == 1 then
    -- Runs with the same needs are parked already.
    return park_for_needs(id, queue, needs)
  end
  put(id, 'reason', '')
  if is_back then dispatch_in_order(id, now) else dispatch(id, now) end
end

-- The same for a pass, which one damaged record must not stop: a run with which it fails is taken out of `waiting`.
-- Returns 1, or 0 for such a run.
local function try_line_up(id, now, waiting, is_back)
  local done, problem = pcall(line_up, id, now, is_back)
  if done then return 1 end
  redis.call('ZREM', waiting, id)
  doubt(id, waiting, problem)
  return 0
end

local served = {}
-- Whether a live worker of the queue has a free slot, by each worker's last call.
local function is_served(queue, now)
  if served[queue] == nil then
    served[queue] = false
    for _, owner in ipairs(redis.call('ZRANGEBYSCORE', 'launch:consumers:' .. queue, int(now), '+inf', 'LIMIT', 0, 100)) do
      local slots, by_hand = unpack(redis.call('HMGET', 'launch:free:' .. owner, 'slots', 'by_hand'))
      if not by_hand and (not slots or tonumber(slots) > 0) then
        served[queue] = true
        break
      end
    end
  end
  return served[queue]
end

-- Dispatches the run at the head of a line, or parks it where it must wait now. Returns the number of moved runs (0 or
-- 1), or 'blocked' where the run must stay.
local function let_go(id, group, line, now)
  local run = get(id, 'state', 'parked', 'queue', 'needs')
  if run[1] ~= 'Pending' or run[2] ~= group .. '/' .. line then
    redis.call('ZREM', 'launch:parked:' .. group .. '/' .. line, id)
    return 0
  end
  local other, other_line, why = no_room(id)
  if other == group and other_line == line then return 'blocked' end
  unpark(id)
  if other then
    park(id, other, other_line, why)
  elseif run[4] and run[4] ~= '' and redis.call('EXISTS', 'launch:parked:needs:' .. run[4] .. '/' .. run[3]) == 1 then
    -- Runs with the same needs are parked already: a worker would refuse this one too.
    park_for_needs(id, run[3], run[4])
  else
    put(id, 'reason', '')
    promise(id)
    dispatch_in_order(id, now)
  end
  return 1
end

-- The number of runs that this call has dispatched or moved to another group's line.
local moves = 0
-- Dispatches runs that were parked for a place in a group and have one now, in order of rank; in a pool the runs of the
-- first queue come first. Where the group has several queues, a queue without a free worker is passed over, so that its
-- runs do not block the place. Returns the number of runs that were dispatched or moved to another group's line: at
-- most `budget`.
local function wake(group, now, budget)
  local moved, blocked = 0, {}
  local is_shared = string.sub(group, 1, 6) ~= 'queue:'
  local is_pool = string.sub(group, 1, 5) == 'pool:'
  for _ = 1, budget + 100 do
    if moved >= budget then break end
    local best, best_line, best_order, best_score
    -- All lines of the group; at most 1000, should a client have made more.
    for _, line in ipairs(redis.call('SRANDMEMBER', 'launch:parked:' .. group, 1000)) do
      local queue = queue_of(line)
      if not blocked[line] and (not is_shared or is_served(queue, now)) then
        local head = redis.call('ZRANGE', 'launch:parked:' .. group .. '/' .. line, 0, 0, 'WITHSCORES')
        local score = tonumber(head[2])
        local order = is_pool and (settings_of('queue', queue).rank or 1000) or 0
        if not head[1] then
          redis.call('SREM', 'launch:parked:' .. group, line)
        elseif not best or order < best_order or (order == best_order and score < best_score) then
          best, best_line, best_order, best_score = head[1], line, order, score
        end
      end
    end
    if not best then break end
    local fine, answer = pcall(let_go, best, group, best_line, now)
    if not fine then
      -- One damaged record must hold up neither the other runs nor the run that ended.
      redis.call('ZREM', 'launch:parked:' .. group .. '/' .. best_line, best)
      doubt(best, group, answer)
    elseif answer == 'blocked' then
      blocked[best_line] = true
    else
      moved = moved + answer
    end
  end
  moves = moves + moved
  return moved
end

local woken = {}
-- Allows each group to be woken once more: a script that ends many runs calls this after each of them.
local function wake_again() woken = {} end

local function wake_once(group, now, budget)
  if woken[group] or redis.call('EXISTS', 'launch:parked:' .. group) == 0 then return 0 end
  woken[group] = true
  return wake(group, now, budget)
end

-- Gives away the places of a run that has left Running, or will not run. The widest group comes first, or the next run
-- of the same queue would always come before a better one of another queue.
local function release(id, now)
  local groups = places_of(id)
  local pool = groups[1] and settings_of('queue', string.sub(groups[1], 7)).pool
  if pool then wake_once('pool:' .. pool, now, 20) end
  for at = #groups, 1, -1 do wake_once(groups[at], now, 20) end
end
