-- ARGV: now or '', cursor, about how many. Tells the time, the next cursor, and digests and records in turn.
local cursor, found = unpack(call('HSCAN', RECORDS, ARGV[2], 'COUNT', ARGV[3]))
local told = {now, cursor}
for at, text in ipairs(found) do told[at + 2] = text end
return told
