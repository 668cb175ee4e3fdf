-- The record of a run: each field is read once in a call, and written by the functions of this file only.

-- Fields of records as this call found or left them: by id, field to value, false for one that is not there. Nobody else
-- writes meanwhile; here only `put`, `write_new`, `drop` and `forget` do.
local seen = {}
-- What a record that is there does not say of itself.
local DEFAULTS = {attempt = '0', token = '0', first_attempt = '1', seq = '0', project = '', priority = '6', reason = ''}
-- Of a record of which all is known.
local ABSENT = {__index = function() return false end}
local NEW = {__index = function(_, field) return DEFAULTS[field] or false end}

-- Reads fields of a record that were not read yet, in one go. nil for a damaged one.
local function read(id, fields)
  local record = seen[id]
  if not record then fields[#fields + 1] = 'state' end
  local values = redis.pcall('HMGET', run_key(id), unpack(fields))
  if values.err then return nil end
  if not record then record = {state = values[#values]} end
  for at = 1, #fields do
    local field = fields[at]
    if record[field] == nil then record[field] = values[at] or record.state and DEFAULTS[field] or false end
  end
  seen[id] = record
  return record
end

-- Fields of a record, each read once only; false for what is not there.
-- A damaged record (its key is not a hash) reads as an unknown run: it must not stop what others need.
local function get(id, ...)
  local found = {...}
  local record = seen[id] or read(id, {...})
  if not record then return {} end
  for at = 1, #found do
    local value = record[found[at]]
    if value == nil then
      read(id, {...})
      value = record[found[at]]
    end
    found[at] = value
  end
  return found
end

-- Reads all of a record, for one who needs most of it.
local function read_all(id)
  local values = redis.pcall('HGETALL', run_key(id))
  if values.err then return end
  local record = setmetatable({}, #values > 0 and NEW or ABSENT)
  for at = 1, #values, 2 do record[values[at]] = values[at + 1] end
  seen[id] = record
end

-- Whether there is no such run, nor was one that was deleted. What is written of it then is all that there is.
local function is_new(id)
  if redis.call('EXISTS', run_key(id), run_key(id) .. ':deleted') > 0 then return false end
  seen[id] = setmetatable({}, NEW)
  return true
end

-- Writes fields of a record: a flat list of names and values. What it has already, or by default, is not written.
local function put(id, ...)
  local given, changed = {...}, {}
  local record = seen[id] or read(id, {}) or {}
  for at = 1, #given, 2 do
    local field, value = given[at], given[at + 1]
    if type(value) == 'number' then value = string.format('%.17g', value) end
    if record[field] ~= value then
      changed[#changed + 1] = field
      changed[#changed + 1] = value
      record[field] = value
    end
  end
  if #changed > 0 then redis.call('HSET', run_key(id), unpack(changed)) end
end

-- Writes a new record, all of whose fields its creator has noted: a flat list of names and values.
local function write_new(id, fields) redis.call('HSET', run_key(id), unpack(fields)) end

-- Takes fields from a record.
local function drop(id, ...)
  local there = {}
  local record = seen[id] or read(id, {}) or {}
  for _, field in ipairs({...}) do
    if record[field] ~= false then there[#there + 1] = field end
    record[field] = false
  end
  if #there > 0 then redis.call('HDEL', run_key(id), unpack(there)) end
end
