-- ARGV: now or '', partition, number, epoch, how many at a time. Tells the epoch, then number, digest and sealed of each.
if not epoch then return {0} end
local from = epoch == ARGV[4] and tonumber(ARGV[3]) + 1 or 0
local told = {tonumber(epoch)}
while true do
  local first, last = '[' .. partition .. digits(from), '(' .. ARGV[2] .. ';'
  local members = try('ZRANGEBYLEX', ORDER, first, last, 'LIMIT', 0, ARGV[5])
  if members.err or not members[1] then return told end
  local numbers, digests, names = {}, {}, {}
  for at, member in ipairs(members) do
    numbers[at], digests[at] = parts(member)
    names[at] = partition .. digests[at]
  end
  local rows = try('HMGET', ROWS, unpack(names))
  if rows.err then return told end
  for at, row in ipairs(rows) do
    local fits = row and string.sub(row, 1, 15) == numbers[at] and tonumber(string.sub(row, 16, 30)) > now
    if fits then
      local size = #told
      told[size + 1], told[size + 2], told[size + 3] = tonumber(numbers[at]), digests[at], string.sub(row, 31)
    end
  end
  -- Those that have ended stand among the others: it goes on until there are as many of these, or no more.
  if #told > 3 * ARGV[5] or #members < tonumber(ARGV[5]) then return told end
  from = tonumber(numbers[#members]) + 1
end
