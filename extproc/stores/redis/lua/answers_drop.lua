-- ARGV: now or '', digests. Tells how many of them had not ended.
local names, alive = {unpack(ARGV, 2)}, 0
for _, name in ipairs(names) do
  local ends = call('ZSCORE', ENDS, name)
  if ends and tonumber(ends) > now then alive = alive + 1 end
end
local before = counted()
local bytes = drop(names, before)
if bytes ~= before then call('HSET', RECORDS, '', math.max(0, bytes)) end
return alive
