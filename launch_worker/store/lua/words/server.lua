-- The server that this library is in.

-- What is known of the server. Unlike all other words it outlives a call: until the server ends, or another one becomes
-- the master, for Redis neither saves nor replicates the variables of a library.
local server = {is_known = false}
