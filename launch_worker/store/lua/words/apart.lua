-- Runs that another worker shall try: than that of their last attempt, or than one that fails to start such runs.

local APART = {}

-- Whether a worker cannot start a run for now: `unable` are the fields of specs for which its starts fail.
function APART.is_unable(id, unable)
  if type(unable) ~= 'table' then return false end
  local spec, queue = unpack(get(id, 'spec', 'queue'))
  for _, name in ipairs(unable) do
    if string.find(spec or '', '"' .. tostring(name) .. '":', 1, true) then return true end
    if name == 'image' and string.find(queue_config(queue) or '', '"resource": ?"container"') then return true end
  end
  return false
end

-- Whether a live worker has another name, takes runs now, reads the run's item, and has what the run needs when it is
-- idle.
function APART.may_take(id, owner, worker, version, needs)
  local text = redis.pcall('GET', 'launch:worker:' .. owner)
  local fine, said = pcall(cjson.decode, type(text) == 'string' and text or '')
  if not fine or type(said) ~= 'table' or said.worker == worker or said.state ~= 'running'
    or APART.is_unable(id, said.unable) then return false end
  local found = redis.pcall('HMGET', 'launch:free:' .. owner, 'by_hand', 'version')
  if found.err or found[1] or (tonumber(found[2] or '') or 1) < version then return false end
  local function total(amount) return type(amount) == 'table' and tonumber(amount.total) or 0 end
  return needs.gpus <= (type(said.devices) == 'table' and #said.devices or 0)
    and needs.cpus <= 1000 * total(said.cpus) and needs.memory <= total(said.memory)
end

-- Whether a worker with another name than `worker` may take a run, sooner or later; and the owner and the
-- free capacity of one that has room now. Bounded.
function APART.look(id, worker, version, needs, now)
  local is_any, queue = false, get(id, 'queue')[1]
  for _, owner in ipairs(redis.call('ZRANGEBYSCORE', 'launch:consumers:' .. queue, int(now), '+inf', 'LIMIT', 0, 200)) do
    local free = free_of(owner)
    local has_room = free and free.slots > 0 and fits(needs, free)
    if (has_room or not is_any) and APART.may_take(id, owner, worker, version, needs) then
      is_any = true
      local _, collected = collected_by(owner)
      if has_room and (not collected or fits(needs, without(free, collected))) then return true, owner, free end
    end
  end
  return is_any
end
