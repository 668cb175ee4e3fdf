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
  claim = true, create = true, create_sweep = true, fire = true, keep_upload = true, next_run = true, requeue = true,
  retry_group = true,
}

-- Forgets what an earlier call has read, promised or gathered.
local function start_call()
  known_settings, known_allowances, known_of_users = {}, {}, {}
  seen, shown, promised, served, woken, moves = {}, {}, {}, {}, {}, 0
  followed = nil
  emptied, announced, telling = {}, {}, {ends = {}, projects = {}}
  to_add = {entries = {}, items = {}, queues = {}, members = {}, counts = {}}
end

-- Makes a function of a script: `script` gets the arguments of a call.
local function define(name, script)
  redis.register_function{
    function_name = LIBRARY .. '_' .. name,
    callback = function(_, arguments)
      start_call()
      return script(arguments)
    end,
    flags = NOT_WHEN_FULL[name] and {} or {'allow-oom'},
  }
end
