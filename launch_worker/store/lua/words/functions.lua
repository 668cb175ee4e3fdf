-- How the scripts become functions of one library (store/redis/library.py puts its text together).
--
-- In a function of a library `redis.call`, `redis.pcall`, cjson and string are those of EVAL. Different are:
-- * The words are made once, when the library is loaded. A variable that is to last for one call only is set anew in
--   `start_call`. Globals cannot be written.
-- * ARGV is a parameter, and KEYS does not exist: the keys follow from the arguments, which a cluster would refuse.
-- * While the library is loaded `redis.call` does not work, only `redis.register_function` and `redis.log` do.
-- * Replies of `redis.call` have the form of RESP2, for nobody calls `redis.setresp`.

-- Functions that a server refuses, before they do anything, when its memory is full: they bring new runs and attempts,
-- and folders for them. All others go on: running attempts are renewed, write within their bounds and end, passes delete
-- old runs, and people stop what they like.
local NOT_WHEN_FULL = {
  claim = true, create = true, create_sweep = true, finish_and_claim = true, fire = true, keep_upload = true, next_run = true, requeue = true,
  retry_group = true,
}

-- The table, if it is empty, or a new one: most of these tables stay empty in most calls.
local function emptied_of(known) return next(known) == nil and known or {} end

-- Forgets what an earlier call has read, promised or gathered.
local function start_call()
  seen, unwritten, moves, followed, time_of_call = {}, {}, 0, nil, nil
  LOOK.are_claims_held = nil
  known_settings, known_allowances, known_of_users = {}, emptied_of(known_allowances), emptied_of(known_of_users)
  shown, promised, served, woken = emptied_of(shown), emptied_of(promised), emptied_of(served), emptied_of(woken)
  emptied, announced = emptied_of(emptied), emptied_of(announced)
  telling = (next(telling.ends) or next(telling.projects)) and {ends = {}, projects = {}} or telling
  to_add = next(to_add.queues) and {entries = {}, items = {}, queues = {}, members = {}, counts = {}} or to_add
end

-- Writes what a call has changed of records, also where the call ends with an error.
local function end_call()
  for id in pairs(unwritten) do write_out(id) end
end

-- Makes a function of a script: `script` gets the arguments of a call.
local function define(name, script)
  redis.register_function{
    function_name = LIBRARY .. '_' .. name,
    callback = function(_, arguments)
      start_call()
      local fine, answer = pcall(script, arguments)
      end_call()
      if not fine then error(answer, 0) end
      return answer
    end,
    flags = NOT_WHEN_FULL[name] and {} or {'allow-oom'},
  }
end
