-- Claims may begin: somebody has looked whether this server was restored from a snapshot (`claim` asks for that).
-- Returns 1.
server.is_known = true
return 1
