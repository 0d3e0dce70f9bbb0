-- ARGV: now or '', digest, most bytes, claim or '', life. Tells the answer or nothing, 1 where the claim is now the
-- caller's, 2 where it is another's, and the epoch.
if not epoch then
  epoch = string.format('%.0f', now)
  call('SET', EPOCH, epoch, 'PX', EPOCH_LIFE)
end
local ends = try('ZSCORE', ENDS, ARGV[2])
if type(ends) == 'string' and tonumber(ends) > now then
  local size = try('HSTRLEN', BODIES, ARGV[2])
  local sealed = type(size) == 'number' and size <= tonumber(ARGV[3]) and call('HGET', BODIES, ARGV[2])
  if sealed then return {sealed, 0, tonumber(epoch)} end
end
local by = held()
if by and by ~= ARGV[4] then return {false, 2, tonumber(epoch)} end
if ARGV[4] == '' then return {false, 0, tonumber(epoch)} end
claim(ARGV[4], ARGV[5])
return {false, 1, tonumber(epoch)}
