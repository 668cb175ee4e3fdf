-- What an admin configured of queues and pools.

local known_settings = {}
-- The limit, paused, pool and rank of a queue or a pool; with `with_config` its configuration too.
local function settings_of(kind, name, with_config)
  local key = 'launch:' .. kind .. ':' .. name
  local known = known_settings[key]
  if not known or (with_config and not known.config) then
    local found = with_config and redis.pcall('HMGET', key, 'limit', 'paused', 'pool', 'rank', 'config')
      or redis.pcall('HMGET', key, 'limit', 'paused', 'pool', 'rank')
    known = found.err and {config = ''} or {limit = tonumber(found[1] or ''), paused = found[2] == '1', pool = found[3],
      rank = tonumber(found[4] or ''), config = with_config and (found[5] or '')}
    known_settings[key] = known
  end
  return known
end

-- The configuration of a queue, as JSON; '' for none.
local function queue_config(queue) return settings_of('queue', queue, true).config end

-- The configuration of a queue's pool, as JSON; '' for none.
local function pool_config(queue)
  local pool = settings_of('queue', queue, true).pool
  return pool and settings_of('pool', pool, true).config or ''
end
