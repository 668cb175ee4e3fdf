-- The parts of an attempt's start and end.

-- The phases of an attempt, and the phase that is going on, if any.
local function phases_of(known)
  local fine, phases = pcall(cjson.decode, known or '[]')
  if not fine or type(phases) ~= 'table' then return {} end
  local last = phases[#phases]
  if last and not (type(last) == 'table' and tonumber(last.at)) then return {} end
  return phases, last and not last.us and last
end

-- Ends the phase that is going on, and begins the phase `name` unless that is ''.
local function enter_phase(id, name, now)
  local known = get(id, 'phases')[1]
  if not known and name == '' then return end
  local phases, last = phases_of(known)
  if last then last.us = int(now - tonumber(last.at)) end
  if name ~= '' then phases[#phases + 1] = {name = name, at = int(now)} end
  put(id, 'phases', cjson.encode(phases))
end
