-- Keeps a signing key that an admin trusts or revokes.  ARGV: id, the key as JSON, what was done (trusted, revoked), actor.
local id, key, what, actor = unpack(ARGV)
redis.call('HSET', 'launch:admin:keys', id, key)
add_act('key', id, what, actor, now_us(), cjson.decode(key))
return 1
