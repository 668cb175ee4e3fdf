-- Puts a notice of a rule into the outbox.  ARGV: channel, id, facts (JSON), life_us (for which the id is remembered)
-- A repeated call with an id renews its life and changes nothing else.  Returns 1 for a new notice, else 0.
local channel, id, facts, life_us = unpack(ARGV)
local key = 'launch:notify:told:' .. id
local is_new = redis.call('EXISTS', key) == 0
redis.call('SET', key, '1', 'PX', int(math.max(1, math.floor(tonumber(life_us) / 1000))))
if not is_new then return 0 end
local now = now_us()
local said = cjson.decode(facts)
said.type, said.at = said.type or 'rule', int(now)
return NOTICES.put(channel, id .. '.' .. channel, said, now) and 1 or 0
