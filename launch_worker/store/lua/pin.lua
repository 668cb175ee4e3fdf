-- Notes the commit of a Running run's code, for this attempt and all later ones.  ARGV: id, token, commit.
-- Refuses a stale attempt.  The first commit stays.  Returns the commit that counts, or '' when refused.
local id, token, commit = unpack(ARGV)
local run = get(id, 'state', 'token', 'commit')
if run[1] ~= 'Running' or run[2] ~= token then return '' end
if run[3] and run[3] ~= '' then return run[3] end
put(id, 'commit', commit)
return commit
