-- The record of a run: each field is read once in a call, and written by the functions of this file only.

-- Fields of records as this call has read or written them: id to field to value, false for a missing field. During a
-- call no other client writes, and within it only `put`, `write_new`, `drop` and `forget` write records.
local seen = {}
-- Values of fields that an existing record leaves out.
local DEFAULTS = {attempt = '0', token = '0', first_attempt = '1', seq = '0', project = '', priority = '6', reason = ''}
-- Metatables of `seen` for records that were read as a whole: a missing record, and an existing or new one.
local ABSENT = {__index = function() return false end}
local NEW = {__index = function(_, field) return DEFAULTS[field] or false end}

-- Reads fields of a record by one command, and returns what is known of it; nil for a damaged record.
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

-- The fields of a record, in order; false for a missing field. Each field is read once in a call.
-- A damaged record (its key is not a hash) reads as an unknown run, so that it does not stop the work on other runs.
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

-- Reads a record as a whole, for a script that needs most of it.
local function read_all(id)
  local values = redis.pcall('HGETALL', run_key(id))
  if values.err then return end
  local record = setmetatable({}, #values > 0 and NEW or ABSENT)
  for at = 1, #values, 2 do record[values[at]] = values[at + 1] end
  seen[id] = record
end

-- Whether no run has this id, and no deleted run had it. After that `seen` has all of the new record.
local function is_new(id)
  local key = run_key(id)
  if redis.call('EXISTS', key, key .. ':deleted') > 0 then return false end
  seen[id] = setmetatable({}, NEW)
  return true
end

-- Writes fields of a record: a flat list of names and values. Values that the record has already, or by default, are
-- not written.
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

-- Writes a new record: a flat list of names and values, which the caller has put into `seen` as well.
local function write_new(id, fields) redis.call('HSET', run_key(id), unpack(fields)) end

-- Removes fields from a record.
local function drop(id, ...)
  local there = {}
  local record = seen[id] or read(id, {}) or {}
  for _, field in ipairs({...}) do
    if record[field] ~= false then there[#there + 1] = field end
    record[field] = false
  end
  if #there > 0 then redis.call('HDEL', run_key(id), unpack(there)) end
end
