-- What an admin configured of queues and pools.

local known_settings = {}
-- Questions that one command answers together. One table: a library may have two hundred names.
local LOOK = {
  HOLD = 'launch:hold',
  -- Settings of a queue that has none.
  NONE = {config = '', paused = false},
  -- Keys of settings that were there when a call read them last; it outlives a call, and only decides which keys are looked
  -- at together. Its names are of admins.
  configured = {},
  -- Whether nobody may claim for a while; nil until this call has asked.
  are_claims_held = nil,
}
-- The limit, paused, pool, rank, admits and config of a queue or a pool. Where the key is of another type the configuration
-- is one that nobody can read: '' would ask for no sandbox and for no signatures.
local function settings_of(kind, name)
  local key = 'launch:' .. kind .. ':' .. name
  local known = known_settings[key]
  if not known then
    -- Most queues have few settings, or none: the key as a whole costs less than the fields by their names.
    local found = redis.pcall('HGETALL', key)
    known = {config = found.err and 'damaged' or ''}
    for at = 1, #found, 2 do known[found[at]] = found[at + 1] end
    known.limit, known.rank = known.limit and tonumber(known.limit), known.rank and tonumber(known.rank)
    known.paused = known.paused == '1'
    known_settings[key] = known
    LOOK.configured[key] = (found.err or #found > 0) and true or nil
  end
  return known
end

function LOOK.is_held()
  if LOOK.are_claims_held == nil then LOOK.are_claims_held = redis.call('EXISTS', LOOK.HOLD) == 1 end
  return LOOK.are_claims_held
end

-- Whether none of these keys exists. Asks by the same command whether the queue has settings; and, for a worker, whether
-- claims are held, which no submitter may read. Mostly nothing of that exists.
function LOOK.is_nothing_of(keys, queue, for_worker)
  local key, count = 'launch:queue:' .. queue, #keys
  local asks_settings = not known_settings[key] and not LOOK.configured[key]
  local asked = {unpack(keys)}
  if for_worker then asked[#asked + 1] = LOOK.HOLD end
  if asks_settings then asked[#asked + 1] = key end
  if #asked == 0 then return true end
  if redis.pcall('EXISTS', unpack(asked)) == 0 then
    if for_worker then LOOK.are_claims_held = false end
    if asks_settings then known_settings[key] = LOOK.NONE end
    return true
  end
  return #asked > count and count > 0 and redis.call('EXISTS', unpack(keys)) == 0
end

local known_allowances = {}
-- How many runs of an allowance may wait and run, and how many GPUs they may hold; nil for no such limit. A user without
-- an allowance has that of every user, user:*.
local function allowance_of(name)
  local known = known_allowances[name]
  if not known then
    local found = redis.pcall('HMGET', 'launch:allowance:' .. name, 'waiting', 'running', 'gpus')
    if not (found.err or found[1] or found[2] or found[3]) and string.sub(name, 1, 5) == 'user:' then
      found = redis.pcall('HMGET', 'launch:allowance:user:*', 'waiting', 'running', 'gpus')
    end
    known = found.err and {} or {waiting = tonumber(found[1] or ''), running = tonumber(found[2] or ''),
      gpus = tonumber(found[3] or '')}
    known_allowances[name] = known
  end
  return known
end

local known_of_users = {}
-- The names of the allowances for which a user's new run counts, with blanks between: of the user, of their groups, and
-- of the project.
local function allowances_for(user, groups, project)
  local asker = user .. '\n' .. groups .. '\n' .. project
  if not known_of_users[asker] then
    -- A park group has no slash in its name.
    local wanted, found = {'user:' .. user, project ~= '' and 'project:' .. string.gsub(project, '/', ':') or nil}, {}
    for group in string.gmatch(groups, '%S+') do wanted[#wanted + 1] = 'group:' .. group end
    for _, name in ipairs(wanted) do
      if redis.pcall('SISMEMBER', 'launch:allowances', name) == 1
        or name == wanted[1] and redis.pcall('SISMEMBER', 'launch:allowances', 'user:*') == 1 then
        found[#found + 1] = name
      end
    end
    known_of_users[asker] = table.concat(found, ' ')
  end
  return known_of_users[asker]
end

local PRIORITY_WORDS = {[0] = 'critical', [3] = 'high', [6] = 'medium', [9] = 'low'}
-- Why a queue or a pool does not admit a user's new run, as words; nil where it does. `admits` has the user groups that
-- may submit, `*` for everybody, each with its highest priority: ml=0 *=6.
local function why_not_admitted(what, admits, groups, priority)
  if not admits or admits == '' then return end
  local is_member, highest, names = {['*'] = true}, nil, {}
  for group in string.gmatch(groups, '%S+') do is_member[group] = true end
  for group, level in string.gmatch(admits, '(%S+)=(%d)') do
    level = tonumber(level)
    if is_member[group] and (not highest or level < highest) then highest = level end
    names[#names + 1] = group
  end
  if not highest then
    return what .. ' takes runs of these groups only: ' .. table.concat(names, ', ') .. '; ask an admin'
  end
  if priority < highest then
    return 'the highest priority that you may give in ' .. what .. ' is ' .. (PRIORITY_WORDS[highest] or int(highest))
  end
end

-- The configuration of a queue, as JSON; '' for none.
local function queue_config(queue) return settings_of('queue', queue).config end

-- The configuration of a queue's pool, as JSON; '' for none.
local function pool_config(queue)
  local pool = settings_of('queue', queue).pool
  return pool and settings_of('pool', pool).config or ''
end
