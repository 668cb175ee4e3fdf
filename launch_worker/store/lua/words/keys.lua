-- The keys of a launch system: the same names as in store/keys.py. All times are the server's, in microseconds.
--
--   launch:run:ID             hash    the record: the truth about a run
--   launch:run:ID:history     list    every transition, as JSON
--   launch:run:ID:log:N       stream  newest output of attempt N (append_log)
--   launch:run:ID:metrics     list    newest rows of metrics that its job sent, as JSON (tell)
--   launch:run:ID:usage       hash    attempt to what it used, with samples over time, as JSON; not of a brief only attempt (finish)
--   launch:run:ID:usage:now   string  the same of a running attempt, for whoever asked its worker; expires soon
--   launch:run:ID:files       hash    files that were kept with the run (save_file)
--   launch:run:ID:deleted     string  when and by whom the run was deleted, and its project; expires (delete)
--   launch:runs[:project:P | :queue:Q | :state:S | :sweep:S]   zset by created_at: the listings
--   launch:array:G            hash    record of a group: how many runs an array or a bulk submission has (size), and how many
--                                     of them are in each state; Never: ended without an attempt. G is the id of an
--                                     array's first run, or b and that of a bulk submission's. Deleted with its last run. The
--                                     names of the key and of the records' field `array` are of a time in which only
--                                     arrays were groups: workers of that release count too. A sweep's record has its counts
--   launch:array:G:runs       list    its runs, in the order of their submission; also those that are deleted
--   launch:array:open         zset    groups whose submitters have not made all their runs, by the time at which the submitter
--                                     counts as dead (publish_due)
--   launch:halted             set     groups of which so many runs failed that the rest is not started, while runs of them wait
--   launch:leases             zset    Running runs by lease deadline; LATER for held runs (hold)
--   launch:due                zset    Pending runs that wait for a time, by that time
--   launch:dispatched:LIST    zset    Pending runs that have an item in LIST, by dispatch time
--   launch:line:QUEUE         zset    Pending runs by rank: priority, then the time since which they are ready; LATER for runs that are not
--   launch:places:GROUP       set     Running runs that count for a limit; GROUP is queue:Q, key:K, array:A (one
--                                     with a limit) or allowance:N
--   launch:places:waiting:N   set     Pending runs that count for the allowance N; launch:places:gpus:N  ID/1, ID/2 … for
--                                     each GPU that its Running runs hold
--   launch:allowances         set     names of the allowances: user:U, group:G, project:P (with : for /);
--   launch:allowance:N        hash    how many of its runs may wait and run, and how many GPUs they may hold
--   launch:parked:GROUP       set     the lines in which runs wait for a place in GROUP (pool:P, needs:N and
--                                     apart:W, runs that worker W shall not try again), and
--   launch:parked:GROUP/LINE  zset    each of them by rank; LINE begins with a queue's name
--   launch:groups:QUEUE, launch:shapes:QUEUE   sets   the groups, and the needs, for which runs of QUEUE are parked
--   launch:waiters:ID         zset    Pending runs that wait for the end of ID, a run or a group, by their submission
--   launch:once:SLOT          hash    run, or first run of an array, that has a key (--unique KEY:for 1h, KEY:until-end), and until
--                                     when (µs, or end). Expires then, or is deleted with that run (create)
--   launch:settle             set     ended runs and groups with waiters that do not know of the end yet
--   launch:expiring           zset    Pending runs with an expiry, by the time at which they must have started
--   launch:sweeps             zset    hyperparameter sweeps by created_at; launch:sweeps:live  set  sweeps that are not over
--   launch:sweep:ID           hash    a sweep: its settings, its state and its progress (create_sweep, next_run, steer_sweep)
--   launch:sweep:ID:runs      zset    its runs by their numbers; launch:sweep:ID:live  set  its runs that have not ended
--   launch:sweep:ID:trials, :results, :stopped   hashes by number   drawn values, result, and reason of an early stop of each run
--   launch:sweep:ID:ended     list    numbers of its ended runs, in the order of their ends
--   launch:sweep:ID:curve:N   list    values of the metric that run N sent, as "STEP VALUE" (only in sweeps that stop runs early)
--   launch:sweep:ID:lock:WHAT string  lock of the client that makes the sweep's next runs, or judges them; expires
--   launch:schedules          zset    recurring submissions by their next time; launch:schedule:NAME  string  each of them
--   launch:schedule:NAME:run  string  last run of a schedule that asks whether it has ended; deleted with the schedule
--   launch:cancels            zset    Running runs that are asked to stop, by the time of the request
--   launch:ended              zset    runs in a final state, by end, that no archive has confirmed; retire deletes them from here, and from
--   launch:archived           zset    the same, that an archive has confirmed (archived)
--   launch:archive            string  name of the archive that is registered, and the URL below which it deletes logs; expires
--   launch:changes            stream  what happened, newest entries, for readers that keep their own copy (feed). It exists
--                                     only while a reader wants it (follow), and expires a day after its last renewal
--   launch:outbox             set     channels that have notices; also the Redis channel on which each new notice is published
--   launch:outbox:C           zset    notices of channel C by the time of their next try (put_notice); :notices  hash  the facts
--                                     of each, as JSON; :tries  hash  failed tries and marks; :state  hash  bytes, holder and its
--                                     lease, how sending goes, and counts (settle_notices). All but the counts go with the last notice
--   launch:notify:sender      string  names of the channels, while a process sends notices; expires (keep_channels)
--   launch:notify:projects    hash    what an admin wants to be told of the runs of a project, as in a record's `notify`
--   launch:notify:told:ID     string  a rule's notice that was made; expires when the rule no longer finds it (notify)
--   launch:settling           string  exists for a while after an outage: no run becomes Crashed before its worker could report
--   launch:hold               string  exists for a while after a restore from a snapshot: no run is claimed either
--   launch:restored_at        string  when a restore from a snapshot was last noticed
--   launch:queues             set     every queue that a run was submitted to
--   launch:queue:NAME         hash    settings of a queue by an admin: config (JSON, trusted by workers), limit, paused, pool, rank, admits
--   launch:pools              set     every pool; launch:pool:NAME  hash  config, limit, paused, admits of each
--   launch:pool_queues:NAME   zset    its queues by rank
--   launch:admin:keys         hash    signing keys that an admin trusts or has revoked: id to JSON (keep_key)
--   launch:system             string  name of this system on container engines that other systems use too; is never deleted
--   launch:worker:OWNER       string  a live worker's description (expires with its lease)
--   launch:free:OWNER         hash    free capacity of a worker at its last call: slots, gpus, cpus (thousandths), memory (bytes)
--   launch:collecting:OWNER   string  run for which a worker keeps capacity that comes free (offer)
--   launch:workers            zset    live workers by the time at which they count as gone
--   launch:consumers:QUEUE    zset    live workers that consume QUEUE, by the same time
--   launch:passes, launch:counters    hashes  time of each beat pass; numbers of refused reports and of other events
--   launch:counted            set     queues that have counters of their own; launch:counts:QUEUE  hash  those, for metrics (words/counts.lua);
--                                     _other those of all other queues, _deleted those of deleted queues
--   launch:upload:SHA256      string  number of chunks of a complete upload (keep_upload; expires, as its chunks do)
--   launch:upload:SHA256:N    string  chunk N of an upload; expires soon unless the upload is completed
--   launch:upload:SHA256:of:U string  1 for an upload that user U has sent through a server; expires as uploads do
--   launch:refused            list    newest malformed items and damaged keys, for reading
-- Channels: launch:news:ID (a transition, or more output; of a group: its end), launch:orders:OWNER (a cancel, a question for usage), launch:admin:OWNER (drain,
-- upgrade, resume), launch:due, launch:queues (a queue is new, configured or gone), launch:sweeps (a sweep is to be looked at).
-- A queue's items are in the lists kombu reads: QUEUE, and QUEUE<sep>3, 6, 9 for lower priorities. A worker's own list,
-- launch.direct.OWNER, has the items that were given to this worker alone. An element in launch.wake.OWNER ends the worker's
-- wait for its lists; only the worker writes and reads it, and it expires.
--
-- A Pending run is in exactly one place: in a list (dispatch), parked, waiting for a time (schedule), or for other runs.

local SEP = '\6\22'

local LEVELS = {['0'] = 0, ['3'] = 1, ['6'] = 2, ['9'] = 3}

local function run_key(id) return 'launch:run:' .. id end
local function once_key(slot) return 'launch:once:' .. slot end

local function group_key(group) return 'launch:array:' .. group end

local function members_key(group) return 'launch:array:' .. group .. ':runs' end

local function sweep_key(sweep) return 'launch:sweep:' .. sweep end

local function upload_key(sha256, number)
  local key = 'launch:upload:' .. sha256
  if number then return key .. ':' .. int(number) end
  return key
end

-- The list of a queue for a priority. A damaged priority counts as the default: no worker reads any other list.
local function list_of(queue, priority)
  if priority == '0' then return queue end
  return queue .. SEP .. (LEVELS[priority] and priority or '6')
end

local function direct_of(owner) return 'launch.direct.' .. owner end
