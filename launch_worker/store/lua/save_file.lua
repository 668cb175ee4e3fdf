-- Keeps a file with a run, in any state; one of that name is replaced.
-- ARGV: id, name, data, most_files, most_bytes (of all files of the run)
-- Returns 'kept' | 'full' | 'unknown'.
local id, name, data, most_files, most_bytes = unpack(ARGV)
local state, known = unpack(get(id, 'state', 'files'))
if not state then return 'unknown' end
local fine, files = pcall(cjson.decode, known or '{}')
if not fine or type(files) ~= 'table' then files = {} end
files[name] = nil
local count, bytes = 1, #data
for _, file in pairs(files) do
  count, bytes = count + 1, bytes + (type(file) == 'table' and tonumber(file.size) or 0)
end
if count > tonumber(most_files) or bytes > tonumber(most_bytes) then return 'full' end
files[name] = {size = #data, at = int(now_us())}
redis.call('HSET', run_key(id) .. ':files', name, data)
put(id, 'files', cjson.encode(files))
return 'kept'
