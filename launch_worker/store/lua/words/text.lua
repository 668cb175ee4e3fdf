-- Numbers, times, and text as Redis, JSON and Celery need them.

-- The number that was made into text last, and its text: most numbers of a call are its time.
local PRINTED = {}
-- A number as text. Lua itself would print one above 2^47 as 1.7e+15.
local function int(number)
  if number == PRINTED.number then return PRINTED.text end
  local value = number + 0
  -- As a whole number where it is one: C prints those four times as fast.
  local is_whole = value % 1 == 0 and value < 9007199254740992 and value > -9007199254740992
  PRINTED.number, PRINTED.text = number, string.format(is_whole and '%d' or '%.0f', value)
  return PRINTED.text
end

-- The server's time, which stands still during a call; nil until this call has asked.
local time_of_call = nil
local function now_us()
  if not time_of_call then
    local time = redis.call('TIME')
    time_of_call = time[1] * 1000000 + time[2]
  end
  return time_of_call
end

-- The number that a text of digits stands for, within bounds; nil for every other text.
local function whole(text, least, most)
  local number = string.match(text or '', '^%d+$') and tonumber(text)
  if number and number >= least and number <= most then return number end
end

-- A number of an argument or a record, as text, by which a loop ends: from 0 to `most`, whatever somebody wrote there.
local function at_most(text, most) return math.max(0, math.min(tonumber(text) or 0, most)) end

-- The number of items that one call looks at, at most, whatever its caller asks for.
local MOST_AT_ONCE = 2000
-- The number of bytes of JSON that is read at most.
local MOST_JSON = 4194304

-- The text that was made into JSON last, and that JSON: mostly the name of a worker.
local ENCODED = {}
local function as_json(text)
  if text ~= ENCODED.text then ENCODED.text, ENCODED.json = text, cjson.encode(text) end
  return ENCODED.json
end

local function decoded(text)
  if text and #text > MOST_JSON then return nil end
  local fine, value = pcall(cjson.decode, text or '')
  return fine and value or nil
end

local function as_number(value)
  if type(value) ~= 'number' or value ~= value or math.abs(value) == math.huge then return nil end
  return value
end

-- The number with this name in a decoded JSON object. Each dot in the name may lead into a nested object.
local function number_in(object, name)
  if type(object) ~= 'table' then return nil end
  local found = as_number(object[name])
  if found then return found end
  for at in string.gmatch(name, '()%.') do
    found = number_in(object[string.sub(name, 1, at - 1)], string.sub(name, at + 1))
    if found then return found end
  end
end

-- The text with '?' for bytes that are no UTF-8: a damaged record may have such bytes, and an item with them is
-- refused.
local function as_utf8(text)
  if not string.find(text, '[\128-\255]') then return text end
  local rest, more = text, '[\128-\191]'
  for _, first in ipairs({'\240[\144-\191]' .. more, '[\241-\243]' .. more .. more, '\244[\128-\143]' .. more,
    '\224[\160-\191]', '[\225-\236\238\239]' .. more, '\237[\128-\159]', '[\194-\223]'}) do
    rest = string.gsub(rest, first .. more, '')
  end
  if not string.find(rest, '[\128-\255]') then return text end
  return (string.gsub(text, '[\128-\255]', '?'))
end
