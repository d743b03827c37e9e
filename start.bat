@echo off
rem Installs what is missing and starts the program.
rem
rem   start.bat                  asks what to start
rem   start.bat [options]        options of launch.py, e.g. --mode both
rem   start.bat --demo [options] the whole way from songs to an adapter, on a tiny model
setlocal
cd /d "%~dp0"
call install.bat --quick
if errorlevel 1 goto failed
if /i "%~1"=="--demo" goto demo
if "%~1"=="" goto menu
"env\Scripts\python.exe" launch.py %*
if errorlevel 1 goto failed
exit /b 0

:menu
echo.
echo   1  Trainer
echo   2  Captioner
echo   3  Both
echo.
choice /c 123 /n /m "Start which one? [1, 2, 3] "
set "MODE=train"
if errorlevel 2 set "MODE=caption"
if errorlevel 3 set "MODE=both"
"env\Scripts\python.exe" launch.py --mode %MODE% --browser
if errorlevel 1 goto failed
exit /b 0

:demo
set "REST="
:more
shift
if "%~1"=="" goto run_demo
set REST=%REST% %1
goto more
:run_demo
"env\Scripts\python.exe" -m acestep demo%REST%
if errorlevel 1 goto failed
exit /b 0

:failed
echo.
pause
exit /b 1
