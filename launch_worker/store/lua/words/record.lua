-- The record of a run: each field is read once in a call, and written by the functions of this file only.

-- Fields of records as this call has read or written them: id to field to value, false for a missing field. During a
-- call no other client writes, and within it only `put`, `write_new`, `drop` and `forget` write records.
local seen = {}
-- Values of fields that an existing record leaves out; false for no value. A field that is not named here is asked for,
-- though the record was read as a whole. 0 is the name of no field: it marks a record that was.
local DEFAULTS = {attempt = '0', token = '0', first_attempt = '1', seq = '0', project = '', priority = '6', reason = '', [0] = false,
  allowances = false, array = false, array_limit = false, avoid = false, cancel_at = false, cancel_grace_us = false,
  cancel_reason = false, closed = false, collector = false, commit = false, concurrency_key = false, created_at = false,
  due_at = false, ended_at = false, exit_code = false, expires_us = false, gpus = false, held = false, host = false, id = false,
  late_exit = false, limit_key = false, lined_at = false, list = false, log_missing = false, log_missing_lines = false,
  max_fails = false, message = false, misstarts = false, name = false, needs = false, nonce = false, not_before = false,
  notify = false, once = false, outputs = false, owner = false, parked = false, phase = false, phases = false, pid = false,
  preempting = false, preemptions = false, queue = false, retried = false, scheduler = false, signal = false, signature = false,
  spec = false, start_at = false, started_at = false, state = false, sweep = false, usage = false, user = false, version = false,
  waits_for = false, worker = false}
-- Metatables of `seen` for records that were read as a whole: a missing record, and an existing or new one.
local ABSENT = {__index = function() return false end}
local NEW = {__index = DEFAULTS}
-- What is known of a damaged record.
local NOTHING = {}

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

-- What is known of a record, with these fields at least. Of a damaged record nothing is known.
local function record_of(id, ...)
  local record = seen[id]
  if not record or record[0] == nil then
    get(id, ...)
    record = seen[id] or NOTHING
  end
  return record
end

-- One field of a record: what `get` would find.
local function field_of(id, field)
  local record = seen[id]
  local value = record and record[field]
  if value == nil then return get(id, field)[1] end
  return value
end

-- Reads a record as a whole, for a script that needs most of it. Returns its fields and values; nil for a damaged one.
local function read_all(id)
  local values = redis.pcall('HGETALL', run_key(id))
  if values.err then return end
  local record = setmetatable({}, #values > 0 and NEW or ABSENT)
  for at = 1, #values, 2 do record[values[at]] = values[at + 1] end
  seen[id] = record
  return values
end

-- Whether no run has this id, and no deleted run had it. After that `seen` has all of the new record. `is_looked_for`:
-- this call has looked already, and there was none.
local function is_new(id, is_looked_for)
  local key = run_key(id)
  if not is_looked_for and redis.call('EXISTS', key, key .. ':deleted') > 0 then return false end
  seen[id] = setmetatable({}, NEW)
  return true
end

-- Fields of existing records that this call has changed and not written yet: id to field to value, false for a field that
-- is to be removed. They are written at the end of the call, by one command for each record.
local unwritten = {}

-- What is to be changed of a record; nil for a damaged record, which refuses what is written to it at once.
local function changes_of(id)
  local changes = unwritten[id]
  if not changes and (seen[id] or read(id, {})) then
    changes = {}
    unwritten[id] = changes
  end
  return changes
end

-- Writes what this call has changed of a record.
local function write_out(id)
  local changes, set, gone = unwritten[id], {}, {}
  unwritten[id] = nil
  local count = 0
  for field, value in pairs(changes or {}) do
    if value then
      set[count + 1] = field
      set[count + 2] = value
      count = count + 2
    else
      gone[#gone + 1] = field
    end
  end
  if #gone > 0 then redis.call('HDEL', run_key(id), unpack(gone)) end
  if count > 0 then redis.call('HSET', run_key(id), unpack(set)) end
end

-- Writes fields of a record: a flat list of names and values. Values that the record has already, or by default, are
-- not written.
local function put(id, ...)
  local changes = changes_of(id)
  if not changes then return redis.call('HSET', run_key(id), ...) end
  local record, given = seen[id], {...}
  for at = 1, #given, 2 do
    local field, value = given[at], given[at + 1]
    if type(value) == 'number' then value = string.format('%.17g', value) end
    if record[field] ~= value then
      record[field] = value
      changes[field] = value
    end
  end
end

-- Writes a new record: a flat list of names and values, which the caller has put into `seen` as well.
local function write_new(id, fields) redis.call('HSET', run_key(id), unpack(fields)) end

-- Removes fields from a record.
local function drop(id, ...)
  local changes = changes_of(id)
  if not changes then return redis.call('HDEL', run_key(id), ...) end
  local record, given = seen[id], {...}
  for at = 1, #given do
    local field = given[at]
    if record[field] ~= false then
      record[field] = false
      changes[field] = false
    end
  end
end
