-- Counters for metrics: what has happened in each queue since its counters began (docs/reference/metrics.md).
--
-- Fields of a queue's counters, which never fall:
--   submitted          runs that were created
--   refused            submissions that an allowance or the queue's admission refused; of all queues together, in _other
--   wait:BOUND         claims, by the time that the run was ready before: at most BOUND seconds; wait:us  that time, summed
--   end:STATE:BOUND    arrows into a final state, by the time since the attempt's claim; BOUND is - without an attempt
--   ran:STATE          that time in microseconds, summed
--   retry:STATE        those of these ends after which the run was tried again in the same step: the run did not end
--   left:STATE         arrows out of a final state, those after a retry included
-- So a queue's unfinished runs are submitted + left - end.

-- One table: a library may have two hundred names.
local COUNTS = (function()
  local made = {}
  local COUNTED = 'launch:counted'
  -- The counters of all queues that have none of their own, and what is left of those of deleted queues.
  made.OTHER = '_other'
  local DELETED = '_deleted'
  -- The number of queues that get counters of their own by a run; one that an admin configures gets them in any case.
  local MOST_COUNTED = 70
  -- Upper bounds of the histograms' buckets: microseconds, and seconds as text. store/counts.py has the same; a test compares
  -- them. Written out, as a library cannot compute while it is loaded.
  local BOUNDS = {
    {1e4, '0.01'}, {1e5, '0.1'}, {5e5, '0.5'}, {1e6, '1'}, {5e6, '5'}, {1e7, '10'}, {3e7, '30'}, {6e7, '60'}, {3e8, '300'},
    {9e8, '900'}, {3.6e9, '3600'}, {1.44e10, '14400'}, {4.32e10, '43200'}, {8.64e10, '86400'}, {6.048e11, '604800'},
  }

  local function bucket_of(us)
    for _, bound in ipairs(BOUNDS) do
      if us <= bound[1] then return bound[2] end
    end
    return '+Inf'
  end

  local function counts_key(queue) return 'launch:counts:' .. queue end

  -- Whether a queue has counters of its own; gives it some while there is room.
  local function is_counted(queue)
    if not is_queue_name(queue) then return false end
    if redis.pcall('SISMEMBER', COUNTED, queue) == 1 then return true end
    local count = redis.pcall('SCARD', COUNTED)
    return type(count) == 'number' and count < MOST_COUNTED and redis.pcall('SADD', COUNTED, queue) == 1
  end

  -- Adds to a counter of a queue; `by` is a whole number as text. What cannot be counted (the caller's ACL user has no
  -- right to it, or the key is damaged) is lost: it must not keep a run from its end.
  function made.add(queue, field, by)
    queue = queue or ''
    local total = redis.pcall('HINCRBY', counts_key(queue), field, by)
    -- Only a new counter can be the first one of its queue.
    if total ~= tonumber(by) or is_counted(queue) then return end
    redis.pcall('HDEL', counts_key(queue), field)
    redis.pcall('HINCRBY', counts_key(made.OTHER), field, by)
  end

  -- Counts the claim of a run that was ready since `lined_at`.
  function made.add_wait(queue, lined_at, now)
    local since = tonumber(lined_at or '')
    if not since then return end
    local us = math.max(0, now - since)
    made.add(queue, 'wait:' .. bucket_of(us), '1')
    made.add(queue, 'wait:us', int(us))
  end

  -- Counts an arrow into a final state.
  function made.add_end(id, from, to, ended_at)
    if from == 'Pending' then return made.add(get(id, 'queue')[1], 'end:' .. to .. ':-', '1') end
    local run = record_of(id, 'queue', 'started_at')
    local queue, started_at = run.queue, run.started_at
    local us = math.max(0, ended_at - (started_at and tonumber(started_at) or ended_at))
    made.add(queue, 'end:' .. to .. ':' .. bucket_of(us), '1')
    made.add(queue, 'ran:' .. to, int(us))
  end

  -- Gives a queue counters of its own, in any case.
  function made.begin(queue) redis.pcall('SADD', COUNTED, queue) end

  -- Deletes a queue's counters. What they had counted stays in the sums over all queues, which must never fall.
  function made.forget(queue)
    local found = redis.pcall('HGETALL', counts_key(queue))
    if not found.err then
      for at = 1, #found, 2 do redis.pcall('HINCRBY', counts_key(DELETED), found[at], found[at + 1]) end
    end
    redis.call('DEL', counts_key(queue))
    redis.call('SREM', COUNTED, queue)
  end

  return made
end)()
