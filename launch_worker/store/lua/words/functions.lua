-- How the scripts become functions of one library (store/redis/library.py puts its text together).
--
-- In a function of a library `redis.call`, `redis.pcall`, cjson and string are those of EVAL. Different are:
-- * The words are made once, when the library is loaded. A variable that is to last for one call only is set anew in
--   `start_call`. Globals cannot be written.
-- * ARGV is a parameter, and KEYS does not exist: the keys follow from the arguments, which a cluster would refuse.
-- * While the library is loaded `redis.call` does not work, only `redis.register_function` and `redis.log` do.
-- * Replies of `redis.call` have the form of RESP2, for nobody calls `redis.setresp`.

-- Functions that a server takes also when its memory is full: what frees memory, and what did its first write by a
-- command that frees some. All others are refused before they do anything.
local WHEN_FULL = {
  cancel = true, cancel_array = true, check_cancellations = true, claim = true, crash = true, delete = true,
  delete_pool = true, delete_queue = true, goodbye = true, heal = true, publish_due = true, publish_lost = true,
  release = true, renew_upload = true, retire = true, retire_sweeps = true, settle_sweep = true, stale = true,
  take = true, wake = true,
}

-- Forgets what an earlier call has read, promised or gathered.
local function start_call()
  seen, known_settings, shown, promised, served, woken, moves = {}, {}, {}, {}, {}, {}, 0
  to_add = {entries = {}, items = {}, queues = {}, arrays = {}}
end

-- Makes a function of a script: `script` gets the arguments of a call.
local function define(name, script)
  redis.register_function{
    function_name = LIBRARY .. '_' .. name,
    callback = function(_, arguments)
      start_call()
      return script(arguments)
    end,
    flags = WHEN_FULL[name] and {'allow-oom'} or {},
  }
end
