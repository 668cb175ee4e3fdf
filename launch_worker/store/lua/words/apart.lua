-- Runs that another worker than that of their last attempt shall try.

local APART = {}

-- Whether a live worker has another name, takes runs now, reads the run's item, and has what the run needs when it is
-- idle.
function APART.may_take(owner, worker, version, needs)
  local text = redis.pcall('GET', 'launch:worker:' .. owner)
  local fine, said = pcall(cjson.decode, type(text) == 'string' and text or '')
  if not fine or type(said) ~= 'table' or said.worker == worker or said.state ~= 'running' then return false end
  local found = redis.pcall('HMGET', 'launch:free:' .. owner, 'by_hand', 'version')
  if found.err or found[1] or (tonumber(found[2] or '') or 1) < version then return false end
  local function total(amount) return type(amount) == 'table' and tonumber(amount.total) or 0 end
  return needs.gpus <= (type(said.devices) == 'table' and #said.devices or 0)
    and needs.cpus <= 1000 * total(said.cpus) and needs.memory <= total(said.memory)
end

-- Whether a worker with another name than `worker` may take a run of this queue, sooner or later; and the owner and the
-- free capacity of one that has room now. Bounded.
function APART.look(worker, queue, version, needs, now)
  local is_any = false
  for _, owner in ipairs(redis.call('ZRANGEBYSCORE', 'launch:consumers:' .. queue, int(now), '+inf', 'LIMIT', 0, 200)) do
    local free = free_of(owner)
    local has_room = free and free.slots > 0 and fits(needs, free)
    if (has_room or not is_any) and APART.may_take(owner, worker, version, needs) then
      is_any = true
      local _, collected = collected_by(owner)
      if has_room and (not collected or fits(needs, without(free, collected))) then return true, owner, free end
    end
  end
  return is_any
end
